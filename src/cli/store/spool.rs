//! Standard input, kept until it has been read to its end: an export is looked at whole before anything is changed. What
//! is kept is sealed, lies in a file without a name, and goes with the process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::entropy::{Entropy, OsEntropy};

/// Everything of `input`, from its start.
pub(super) fn spooled(input: &mut dyn Read) -> io::Result<File> {
    let entropy: &dyn Entropy = &OsEntropy;
    let name: String = entropy.bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = std::env::temp_dir().join(format!("token-broker-import-{name}"));
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(input, &mut file)?;
    file.rewind()?;
    Ok(file)
}
