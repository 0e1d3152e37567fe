// Node's HTTP server, for what nginx and httpbin do not say: informational answers before the final one, and one without an end.
import http from "node:http";

const piece = Buffer.alloc(64 * 1024);

const server = http.createServer((request, response) => {
  if (request.url === "/endless") {
    const more = () => {
      while (!response.destroyed && response.write(piece));
    };
    response.on("drain", more);
    more();
    return;
  }
  response.writeContinue();
  response.writeProcessing();
  response.writeEarlyHints({ link: "</style.css>; rel=preload" });
  response.setHeader("x-final", "yes");
  response.end("done");
});
server.listen(0, "127.0.0.1", () => console.log(`Listening at: http://127.0.0.1:${server.address().port} `));
