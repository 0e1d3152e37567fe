// Node's HTTP server, for what nginx and httpbin do not say: informational answers before the final one.
import http from "node:http";

const server = http.createServer((request, response) => {
  response.writeContinue();
  response.writeProcessing();
  response.writeEarlyHints({ link: "</style.css>; rel=preload" });
  response.setHeader("x-final", "yes");
  response.end("done");
});
server.listen(0, "127.0.0.1", () => console.log(`Listening at: http://127.0.0.1:${server.address().port} `));
