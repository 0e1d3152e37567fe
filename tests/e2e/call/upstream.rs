//! Web servers that other people wrote, as APIs behind a provider: nginx from Debian, httpbin from PyPI, Node's own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Running, output, place};

/// A running server.
pub(crate) struct Upstream {
    _running: Running,
    directory: TempDir,
    /// `http://127.0.0.1:…`
    pub(crate) base: String,
    /// Its port for each of [`WAYS`]. nginx alone has them all.
    ports: Option<[u16; WAYS.len()]>,
}

/// How nginx is come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Clear,
    ClearHttp2,
    Tls,
    TlsHttp2,
}

/// Every way to nginx. What is asserted of it is true by each of them.
pub(crate) const WAYS: [Way; 4] = [Way::Clear, Way::ClearHttp2, Way::Tls, Way::TlsHttp2];

impl Way {
    /// What nginx is told of the port.
    fn listens(self) -> &'static str {
        match self {
            Self::Clear => "",
            Self::ClearHttp2 => "http2",
            Self::Tls => "ssl",
            Self::TlsHttp2 => "ssl http2",
        }
    }

    /// What nginx calls the protocol.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Clear | Self::Tls => "HTTP/1.1",
            Self::ClearHttp2 | Self::TlsHttp2 => "HTTP/2.0",
        }
    }
}

/// What nginx shows of itself over TLS.
pub(crate) struct Shown {
    pub(crate) name: &'static str,
    pub(crate) until_year: i32,
}

impl Default for Shown {
    fn default() -> Self {
        Self { name: "localhost", until_year: 2999 }
    }
}

/// More header fields than any client should take.
pub(crate) const MANY_FIELDS: usize = 10_000;

/// What the large file holds, all of it zeros.
pub(crate) const GIBIBYTE: u64 = 1024 * 1024 * 1024;

impl Upstream {
    /// nginx in one process, which ends with the test, with a folder to serve and to write into.
    pub(crate) fn nginx() -> Self {
        Self::nginx_with(&Shown::default())
    }

    /// The same, with such a certificate.
    pub(crate) fn nginx_with(shown: &Shown) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certify(shown, directory.path());
        let www = directory.path().join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("small.txt"), "a small file\n").unwrap();
        let large = File::create(www.join("large")).unwrap();
        large.set_len(GIBIBYTE).unwrap();
        let zeros = File::create(www.join("bomb")).unwrap();
        zeros.set_len(64 * 1024 * 1024).unwrap();
        assert!(output(Command::new("gzip").args(["-9", "-k"]).arg(www.join("bomb"))).status.success());
        fs::rename(www.join("bomb"), www.join("middling")).unwrap();
        let many: String = (0..MANY_FIELDS).fold(String::new(), |mut lines, n| {
            writeln!(lines, "    add_header X-Field-{n} value;").unwrap();
            lines
        });
        fs::write(directory.path().join("many.conf"), many).unwrap();
        // nginx takes no port 0, so it may find a port taken that was free a moment ago.
        for _ in 0..20 {
            let free = WAYS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
            let ports = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
            drop(free);
            let config = directory.path().join("nginx.conf");
            fs::write(&config, nginx_config(directory.path(), ports)).unwrap();
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c"]).arg(&config);
            // The line after its listeners are open; or the one that says that they cannot be.
            let (running, is_ready) = Running::start(command, |line| {
                let is_taken = line.contains("bind() to").then_some(false);
                is_taken.or_else(|| line.contains("getrlimit(").then_some(true))
            });
            if is_ready {
                let base = format!("http://127.0.0.1:{}", ports[Way::Clear as usize]);
                return Self { _running: running, directory, base, ports: Some(ports) };
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
        Self { _running: running, directory, base, ports: None }
    }

    /// The `api` of an entry whose calls come to nginx this way.
    pub(crate) fn api(&self, way: Way) -> Value {
        let port = self.ports.unwrap()[way as usize];
        match way {
            Way::Clear => json!({ "hosts": [format!("http://127.0.0.1:{port}")] }),
            Way::ClearHttp2 => {
                json!({ "hosts": [format!("http://127.0.0.1:{port}")], "http2_prior_knowledge": true })
            }
            // The certificate is for a name.
            Way::Tls | Way::TlsHttp2 => json!({ "hosts": [format!("https://localhost:{port}")] }),
        }
    }

    /// Who vouches for nginx.
    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    /// A file that it serves, or was given.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("www").join(name)
    }

    /// What nginx says of the requests that it logs, one line each. A line is there once the answer to a later request of
    /// the same connection is.
    pub(crate) fn logged(&self) -> Vec<String> {
        self.lines_of("access.log")
    }

    /// What nginx heard of every request that it does not log apart, and of what it could not read as one.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.lines_of("heard.log")
    }

    fn lines_of(&self, log: &str) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join(log)).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

/// Writes an authority of its own, and the certificate and key of a server for which it vouches.
fn certify(shown: &Shown, directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(directory.join("authority.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let mut server = CertificateParams::new([shown.name.to_owned()]).unwrap();
    server.not_after = date_time_ymd(shown.until_year, 1, 1);
    fs::write(directory.join("server.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}

fn nginx_config(directory: &Path, ports: [u16; WAYS.len()]) -> String {
    let place = directory.display();
    let listens = WAYS.map(|way| format!("listen 127.0.0.1:{} {};", ports[way as usize], way.listens()));
    let listens = listens.join(" ");
    format!(
        r#"
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 512; }}
http {{
  log_format asked escape=none '$request_method $uri $status [$http_if_none_match]';
  log_format heard escape=none '$request $http_authorization';
  access_log {place}/heard.log heard;
  default_type application/octet-stream;
  client_max_body_size 2g;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  root {place}/www;
  server {{
    {listens}
    ssl_certificate {place}/server.pem;
    ssl_certificate_key {place}/server.key;
    location = /asked {{ add_header X-Method $request_method; add_header X-Length $http_content_length; return 200 "asked"; }}
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
