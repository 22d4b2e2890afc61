//! `nacre`: stores OCI images once, serves them lazily, runs sandboxes in them.

mod args;
mod cache;
mod containerd;
mod crash;
mod daemon;
mod failure;
mod image;
mod info;
mod keeper;
mod mount;
mod node;
mod output;
mod progress;
mod region;
mod sandbox;
mod settings;
mod snapshot;
mod store;
mod telemetry;
mod trace;
mod volume;

use std::io::Write as _;

use clap::Parser;

use args::{Arguments, Verb};
use failure::{Failure, INTERRUPTED, SUCCESS};
use settings::Settings;
use telemetry::Telemetry;

fn main() {
    let arguments = Arguments::parse();
    let telemetry = Telemetry::start(&arguments);
    let code = match arguments.verb {
        // Its few pages stay in memory for as long as the node has mounts: no threads, no runtime.
        Verb::Keeper => Settings::resolve(arguments.global)
            .and_then(|settings| keeper::keeper(&settings))
            .map_or_else(|failure| failure.report(), |()| SUCCESS),
        _ => run_to_end(arguments),
    };
    telemetry.end();
    // Whoever reads it may be gone; what could not be printed was reported where it was.
    drop(std::io::stdout().flush());
    // Not exit(3): that would take RocksDB's globals down under the threads that still use them.
    signal_hook::low_level::exit(code.into());
}

/// Runs a verb on a runtime of its own.
fn run_to_end(arguments: Arguments) -> u8 {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    match runtime.enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(arguments));
            // Work that nobody waits for any more must not hold up the exit.
            runtime.shutdown_background();
            outcome.unwrap_or_else(|failure| failure.report())
        }
        Err(error) => Failure::new("start", "nacre", &error).report(),
    }
}

/// Runs a verb; those that do not forward signals themselves end at the first interrupt.
async fn run(arguments: Arguments) -> Result<u8, Failure> {
    let settings = Settings::resolve(arguments.global)?;
    let sees_to_signals = arguments.verb.sees_to_signals();
    let done = |result: Result<(), Failure>| result.map(|()| SUCCESS);
    let verb = async {
        match arguments.verb {
            Verb::Daemon(daemon) => done(daemon::serve(&settings, &daemon).await),
            // It is done without this runtime.
            Verb::Keeper => Ok(SUCCESS),
            Verb::Run(run) => sandbox::run::run(&settings, run).await,
            Verb::Exec(exec) => sandbox::exec::exec(&settings, exec).await,
            Verb::Ps(ps) => done(sandbox::ps::ps(&settings, &ps)),
            Verb::Stop(stop) => done(sandbox::stop::stop(&settings, &stop).await),
            Verb::Rm(rm) => done(sandbox::rm::rm(&settings, &rm).await),
            Verb::Snapshot(verb) => done(snapshot::snapshot(&settings, verb).await),
            Verb::Volume(verb) => done(volume::volume(&settings, verb).await),
            Verb::Fork(fork) => sandbox::fork::fork(&settings, fork).await,
            Verb::Image(image) => done(image::image(&settings, image).await),
            Verb::Mount(mount) => done(mount::mount(&settings, &mount).await),
            Verb::Umount(umount) => done(mount::umount(&settings, &umount)),
            Verb::MountInto(mount) => {
                done(sandbox::mount_into::mount_into(&settings, &mount).await)
            }
            Verb::UmountFrom(umount) => {
                done(sandbox::mount_into::umount_from(&settings, &umount).await)
            }
            Verb::Store(store) => done(store::store(&settings, store).await),
            Verb::Cache(cache) => done(cache::cache(&settings, &cache).await),
            Verb::Region(verb) => done(region::region(&settings, verb).await),
            Verb::Trace(trace) => trace::trace(&settings, trace).await,
            Verb::Containerd(verb) => done(containerd::containerd(&settings, verb).await),
            Verb::Info => done(info::info(&settings).await),
            Verb::Version => done(info::version(&settings)),
        }
    };
    if sees_to_signals {
        return verb.await;
    }
    tokio::select! {
        biased;
        result = verb => result,
        _ = tokio::signal::ctrl_c() => Ok(INTERRUPTED),
    }
}
