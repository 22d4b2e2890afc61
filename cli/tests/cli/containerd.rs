//! Containers of Debian's containerd, and of the latest, with the node as its snapshotter.

mod cri;
mod faulty;
mod gvisor;
mod images;
mod kills;
mod pods;
mod real;
mod recovery;
mod release;
mod scene;
mod setup;
mod shown;
mod weather;
