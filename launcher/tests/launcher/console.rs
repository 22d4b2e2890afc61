//! Terminals, with a pseudoterminal as the caller's.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use nacre_launcher::{ExecSpec, SandboxSpec, Streams};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::scene::{SIGNALS, Scene, words};

/// Both sides of a pseudoterminal of 33 rows and 77 columns.
fn terminal() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let size = Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&slave, size).unwrap();
    (File::from(master), slave)
}

fn streams(slave: &OwnedFd) -> Streams {
    let end = || slave.try_clone().unwrap();
    Streams {
        stdin: end(),
        stdout: end(),
        stderr: end(),
    }
}

fn is_cooked(slave: &OwnedFd) -> bool {
    tcgetattr(slave)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON | LocalModes::ECHO)
}

fn screen(mut master: File) -> String {
    let mut text = [0; 4096];
    let length = master.read(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_callers_size_and_input_and_is_given_back() {
    let scene = Scene::new();
    let (mut master, slave) = terminal();
    let mut spec = scene.shell("read line; echo $TERM $line; stty size; exit 4");
    (spec.terminal, spec.interactive) = (true, true);
    assert!(is_cooked(&slave));
    master.write_all(b"hello\n").unwrap();
    let outcome = scene.launcher.run(spec, streams(&slave)).await.unwrap();
    assert_eq!(outcome.exit_code, 4);
    assert!(is_cooked(&slave));
    let screen = screen(master);
    assert!(screen.contains("xterm hello\r\n33 77\r\n"), "{screen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_gives_the_terminal_back() {
    let scene = Scene::new();
    let (_master, slave) = terminal();
    let spec = SandboxSpec {
        terminal: true,
        interactive: true,
        ..scene.spec(&["nosuch"])
    };
    let error = scene.launcher.run(spec, streams(&slave)).await.unwrap_err();
    assert_eq!(error.exit_code(), 127, "{error}");
    assert!(is_cooked(&slave) && scene.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_a_terminal_too() {
    let _no_signals = SIGNALS.read().await;
    let scene = Scene::new();
    let name = scene.waiting().await;
    let (master, slave) = terminal();
    let spec = ExecSpec {
        args: words(&["sh", "-c", "stty size; test -t 0 && exit 5"]),
        terminal: true,
        ..Default::default()
    };
    assert_eq!(
        scene
            .launcher
            .exec(&name, &spec, streams(&slave))
            .await
            .unwrap(),
        5
    );
    assert!(is_cooked(&slave));
    assert!(screen(master).contains("33 77"));
}
