//! Containers of Debian's containerd, with the node as its snapshotter.

mod cri;
mod pods;
mod recovery;
mod scene;
mod setup;
