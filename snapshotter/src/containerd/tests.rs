//! The service over its socket, as containerd uses it: to be run as root.

mod attach;
mod differ;
mod kinds;
mod labels;
mod layers;
mod listing;
mod options;
mod restart;
mod scene;
mod shown;
mod usage;
