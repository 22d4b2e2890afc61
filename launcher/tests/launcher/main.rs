//! Real sandboxes. Needs root, runc, crun, runsc and a statically linked `/bin/busybox` (Debian
//! package `busybox-static`), as `make test` has; says so and fails without.

#[cfg(test)]
mod command;
#[cfg(test)]
mod console;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod runtimes;
#[cfg(test)]
mod scene;
