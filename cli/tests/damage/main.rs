//! What the binary makes of writers that are killed and of objects that are damaged. Mounts: to be
//! run as root.

#![cfg(test)]

mod corruption;
mod crash;
mod daemon;
mod scene;
