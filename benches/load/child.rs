//! Child processes on a core of their own, and what the kernel tells about them.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::Outcome;

/// Where both servers run, one at a time.
pub(crate) const SERVER_CORE: usize = 0;

/// Where the driver runs.
pub(crate) const DRIVER_CORE: usize = 1;

/// `program` on one core; on a machine with a single core they share it.
pub(crate) fn pinned(core: usize, program: &Path) -> Command {
    let core = if cores().is_ok_and(|cores| core < cores) { core } else { 0 };
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// Cores of the machine, whichever of them this process is pinned to.
pub(crate) fn cores() -> Outcome<usize> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok(info.lines().filter(|line| line.starts_with("processor")).count().max(1))
}

/// A child that ends with this value.
pub(crate) struct Kept(pub(crate) Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads lines until `ready` makes something of one; reads on in the background, so that the child never blocks.
pub(crate) fn ready_line<T>(
    stream: impl Read + Send + 'static,
    ready: impl Fn(&str) -> Option<T>,
) -> Outcome<T> {
    let mut lines = BufReader::new(stream).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if let Some(found) = ready(&line) {
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(found);
        }
        said.push(line);
    }
    Err(format!("a child ended before it was ready:\n{}", said.join("\n")).into())
}

/// Writes the config file of a broker into its folder, and makes the key that it names.
pub(crate) fn furnish(folder: &Path, config: &Value) -> Outcome<()> {
    std::fs::write(folder.join("config.yaml"), config.to_string())?;
    let made = Command::new(env!("CARGO_BIN_EXE_token-broker"))
        .args(["keys", "generate"])
        .arg(folder.join("seal.key"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if made.success() { Ok(()) } else { Err("no key was made".into()) }
}

/// Starts the real binary on such a folder, and returns when it serves, with the line that says where.
pub(crate) fn serving(folder: &Path, variables: &[(&str, &str)]) -> Outcome<(Kept, Value)> {
    let mut child = Kept(
        pinned(SERVER_CORE, Path::new(env!("CARGO_BIN_EXE_token-broker")))
            .arg("serve")
            .arg("--config")
            .arg(folder.join("config.yaml"))
            .env_remove("TOKEN_BROKER_LOG")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()?,
    );
    let said = ready_line(child.0.stderr.take().ok_or("no stderr")?, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "serving").then_some(line)
    })?;
    Ok((child, said))
}

/// What such a line says of a door.
pub(crate) fn said(line: &Value, door: &str) -> Outcome<String> {
    Ok(line[door].as_str().ok_or("a door is not told")?.to_owned())
}

/// Processor time a process has used, user and system.
pub(crate) fn cpu_seconds(process: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything; fields are counted behind it (proc(5)).
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| {
        fields.get(at).ok_or("short stat")?.parse::<f64>().map_err(Box::<dyn std::error::Error>::from)
    };
    // 100 ticks a second on every Linux that reports in them.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Memory a process holds resident.
pub(crate) fn resident_bytes(process: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = field(&status, "VmRSS:").ok_or("no VmRSS")?;
    Ok(resident.trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// The machine's load over the last minute.
pub(crate) fn load_average() -> Outcome<f64> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().ok_or("no load average")?.parse()?)
}

/// The profile that this executable, and so the binary beside it, was built with.
pub(crate) fn profile() -> Outcome<String> {
    let binary = Path::new(env!("CARGO_BIN_EXE_token-broker"));
    let folder = binary.parent().and_then(Path::file_name).ok_or("no profile folder")?;
    Ok(folder.to_string_lossy().into_owned())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
