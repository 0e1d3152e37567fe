//! Parse arguments, run a command. Nothing else.

fn main() {}
