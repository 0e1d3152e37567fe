//! Amounts of bytes.

use std::fmt;
use std::str::FromStr;

use super::{Refused, checked_text, quoted};

/// Units, the binary ones from large to small: those are printed.
const BINARY: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

/// An amount of bytes: `1MiB`, `512KiB`, `64kB`, or bytes without a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

checked_text!(
    ByteSize,
    "byte-size",
    ["string", "integer"],
    "An amount of bytes: 1MiB, 512KiB, 64kB, or a number of bytes."
);

impl ByteSize {
    /// `count` times 1024 bytes.
    pub const fn from_kib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let named = BINARY.iter().chain(&DECIMAL).find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let factor = if unit.is_empty() { Some(1) } else { named };
        let number = digits.parse::<u64>().ok();
        match number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(Refused(format!("{} is not a size; write 1MiB or 512KiB", quoted(text)))),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BINARY.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = unit.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them_and_print_to_the_same() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("1048576", 1 << 20, "1MiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("512KiB", 512 << 10, "512KiB"),
            ("64kB", 64_000, "64000B"),
            ("2GiB", 2 << 30, "2GiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(size.to_string().parse(), Ok(size), "{text}");
        }
        for text in ["", "big", "1 MiB", "-1", "1.5MiB", "MiB", "99999999999GiB", "1mib"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("write 1MiB or 512KiB"), "{text}: {error}");
        }
    }
}
