//! Web servers that other people wrote, as APIs behind a provider: nginx from Debian, httpbin from PyPI, Node's own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Running, output, place};

/// A running server.
pub(crate) struct Upstream {
    _running: Running,
    directory: TempDir,
    /// `http://127.0.0.1:…`
    pub(crate) base: String,
    /// The same in HTTP/2, without TLS. nginx alone has it.
    pub(crate) http2: Option<String>,
}

/// More header fields than any client should take.
pub(crate) const MANY_FIELDS: usize = 10_000;

/// What the large file holds, all of it zeros.
pub(crate) const GIBIBYTE: u64 = 1024 * 1024 * 1024;

impl Upstream {
    /// nginx in one process, which ends with the test, with a folder to serve and to write into.
    pub(crate) fn nginx() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let www = directory.path().join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("small.txt"), "a small file\n").unwrap();
        let large = File::create(www.join("large")).unwrap();
        large.set_len(GIBIBYTE).unwrap();
        let zeros = File::create(www.join("bomb")).unwrap();
        zeros.set_len(64 * 1024 * 1024).unwrap();
        assert!(output(Command::new("gzip").arg("-9").arg(www.join("bomb"))).status.success());
        let many: String = (0..MANY_FIELDS).fold(String::new(), |mut lines, n| {
            writeln!(lines, "    add_header X-Field-{n} value;").unwrap();
            lines
        });
        fs::write(directory.path().join("many.conf"), many).unwrap();
        // nginx takes no port 0, so it may find a port taken that was free a moment ago.
        for _ in 0..20 {
            let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [port, http2] = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
            drop(free);
            let config = directory.path().join("nginx.conf");
            fs::write(&config, nginx_config(directory.path(), port, http2)).unwrap();
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c"]).arg(&config);
            // The line after its listeners are open; or the one that says that they cannot be.
            let (running, is_ready) = Running::start(command, |line| {
                let is_taken = line.contains("bind() to").then_some(false);
                is_taken.or_else(|| line.contains("getrlimit(").then_some(true))
            });
            if is_ready {
                let base = |port| format!("http://127.0.0.1:{port}");
                return Self { _running: running, directory, base: base(port), http2: Some(base(http2)) };
            }
        }
        panic!("no free port for nginx");
    }

    /// httpbin, under gunicorn.
    pub(crate) fn httpbin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command
            .args(["-m", "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "16"])
            .args(["--worker-tmp-dir", "/dev/shm", "httpbin:app"])
            .env("PYTHONPATH", place("HTTPBIN_PACKAGES"))
            .current_dir(directory.path());
        Self::said(command, directory)
    }

    /// Node's own server, which hints before it answers.
    pub(crate) fn hinting() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/call/hints.mjs"));
        Self::said(command, directory)
    }

    /// A server that says where it listens.
    fn said(command: Command, directory: TempDir) -> Self {
        let (running, base) = Running::start(command, |line| {
            let (_, address) = line.split_once("Listening at: ")?;
            Some(address.split(' ').next()?.to_owned())
        });
        Self { _running: running, directory, base, http2: None }
    }

    /// A file that it serves, or was given.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("www").join(name)
    }

    /// What nginx says of the requests that it logs, one line each. A line is there once the answer to a later request of
    /// the same connection is.
    pub(crate) fn logged(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

fn nginx_config(directory: &Path, port: u16, http2: u16) -> String {
    let place = directory.display();
    format!(
        r#"
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 512; }}
http {{
  access_log off;
  log_format asked escape=none '$request_method $uri $status [$http_if_none_match]';
  default_type application/octet-stream;
  client_max_body_size 2g;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  root {place}/www;
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{http2} http2;
    location = /protocol {{ return 200 $server_protocol; }}
    location /put/ {{ alias {place}/www/; dav_methods PUT DELETE; }}
    location = /repeated {{ add_header X-Many one; add_header X-Many two; add_header X-Many ""; add_header X-Many three; add_header Set-Cookie "a=b"; return 200 "ok"; }}
    location = /nothing {{ return 204; }}
    location = /trailers {{ add_trailer X-Sum "1234"; add_trailer X-Sum "5678"; try_files /small.txt =404; gzip on; gzip_types *; gzip_min_length 1; }}
    location = /zipped {{ gzip on; gzip_types *; gzip_min_length 1; try_files /small.txt =404; }}
    location = /bomb {{ gzip_static always; }}
    location = /trickle {{ limit_rate 4096; try_files /large =404; }}
    location = /gone {{ return 444; }}
    location = /fields {{ include {place}/many.conf; return 200 "many"; }}
    location /kept/ {{ alias {place}/www/; add_header Cache-Control "max-age=60"; access_log {place}/access.log asked; }}
    location /doubted/ {{ alias {place}/www/; add_header Cache-Control "no-cache"; gzip on; gzip_types *; gzip_min_length 1; access_log {place}/access.log asked; }}
    location /cookie/ {{ alias {place}/www/; add_header Cache-Control "max-age=60"; add_header Set-Cookie "a=b"; access_log {place}/access.log asked; }}
    location = /moved {{ return 302 http://198.51.100.1/elsewhere; }}
  }}
}}
"#
    )
}
