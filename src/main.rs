//! Parse arguments, run a command. Nothing else.

fn main() -> std::process::ExitCode {
    token_broker::cli::main()
}
