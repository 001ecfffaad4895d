//! The program `rollcall-agent`; all of it is in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    rollcall_agent::main(std::env::args_os())
}
