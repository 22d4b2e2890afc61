//! Tests of the binary as its users meet it. They mount and own files: run them as root.

#![cfg(test)]

mod cache;
mod clones;
mod collection;
mod compare;
mod containerd;
mod corpus;
mod diff;
mod export;
mod files;
mod gate;
mod hints;
mod hostile;
mod images;
mod kin;
mod ladder;
mod layout;
mod lines;
mod links;
mod mounts;
mod node;
mod proxy;
mod region;
mod region_burst;
mod region_nodes;
mod region_wrong;
mod regions;
mod registry;
mod run;
mod snapshots;
mod spans;
mod stores;
mod tar;
mod tidy;
mod trace;
mod two_files;
mod volumes;
mod writes;
