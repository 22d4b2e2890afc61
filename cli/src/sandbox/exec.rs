//! `nacre exec`: a command in a running sandbox.

use nacre_launcher::{ExecSpec, LaunchError};

use super::{environment, launcher, own_streams};
use crate::args::Exec;
use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) async fn exec(settings: &Settings, arguments: Exec) -> Result<u8, Failure> {
    let name = arguments.sandbox;
    let process = arguments.process;
    let spec = ExecSpec {
        args: arguments.command,
        env: environment(process.env),
        cwd: process.workdir,
        user: process.user,
        terminal: process.tty,
        interactive: process.interactive,
    };
    let code = launcher(settings)?.exec(&name, &spec, own_streams()?).await;
    let code = code.map_err(|error: LaunchError| {
        let code = error.exit_code();
        Failure::of("run a command in", &name)(error).with_code(code)
    })?;
    Ok(code)
}
