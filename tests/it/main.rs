//! The integration tests: one binary, a module a flow.

#[cfg(test)]
mod rooms;

#[cfg(test)]
mod sandbox;
