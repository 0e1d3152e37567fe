//! File modes.

use std::fmt;
use std::str::FromStr;

use super::{Refused, checked_text, quoted};

/// The mode of a file, read as `chmod` reads it: `0660`, `660` and `0o660` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

checked_text!(
    FileMode,
    "file-mode",
    ["string", "integer"],
    "A file's mode in octal digits, as chmod reads it, with or without quotes: 0660."
);

impl FileMode {
    /// The mode of these permission bits.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every user of the machine may write.
    pub const fn is_writable_by_all(self) -> bool {
        self.0 & 0o002 != 0
    }
}

impl FromStr for FileMode {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        let Some(mode) = mode else {
            return Err(Refused(format!("{} is not a mode; write octal digits such as 0660", quoted(text))));
        };
        // Tools that write YAML turn an unquoted 0660 into 432. Read as octal digits, such a number never lets the
        // owner both read and write, or it holds an 8 or a 9.
        if mode & 0o600 == 0o600 {
            Ok(Self(mode))
        } else {
            Err(Refused(format!(
                "{} would not let the owner read and write; the digits are octal: write \"0660\", in quotes",
                quoted(text)
            )))
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_chmod_reads_them() {
        for text in ["0660", "660", "0o660"] {
            assert_eq!(text.parse::<FileMode>().unwrap().bits(), 0o660, "{text}");
        }
        for text in ["", "rw", "0x1b0", "-660", "99", "7777", "06600", "0668"] {
            assert!(text.parse::<FileMode>().unwrap_err().to_string().contains("write octal"), "{text}");
        }
    }

    #[test]
    fn an_octal_mode_that_went_through_a_decimal_number_is_refused() {
        for mode in [0o600, 0o606, 0o620, 0o622, 0o640, 0o644, 0o660, 0o664, 0o666, 0o700, 0o770, 0o777] {
            assert!(format!("{mode}").parse::<FileMode>().is_err(), "{mode:o} as {mode}");
        }
    }
}
