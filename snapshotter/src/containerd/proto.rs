//! What `build.rs` made of `proto/`, in modules as deep as the packages are.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated; tests are clients of what is served and serve what is asked"
)]

pub mod types {
    tonic::include_proto!("containerd.types");
}

pub mod services {
    pub mod containers {
        pub mod v1 {
            tonic::include_proto!("containerd.services.containers.v1");
        }
    }
    pub mod content {
        pub mod v1 {
            tonic::include_proto!("containerd.services.content.v1");
        }
    }
    pub mod diff {
        pub mod v1 {
            tonic::include_proto!("containerd.services.diff.v1");
        }
    }
    pub mod images {
        pub mod v1 {
            tonic::include_proto!("containerd.services.images.v1");
        }
    }
    pub mod leases {
        pub mod v1 {
            tonic::include_proto!("containerd.services.leases.v1");
        }
    }
    pub mod tasks {
        pub mod v1 {
            tonic::include_proto!("containerd.services.tasks.v1");
        }
    }
    pub mod version {
        pub mod v1 {
            tonic::include_proto!("containerd.services.version.v1");
        }
    }
    pub mod snapshots {
        pub mod v1 {
            tonic::include_proto!("containerd.services.snapshots.v1");
        }
    }
}

pub(super) use services::containers::v1 as containers;
pub(super) use services::content::v1 as content;
pub(super) use services::diff::v1 as diff;
pub(super) use services::images::v1 as images;
pub(super) use services::leases::v1 as leases;
pub(super) use services::snapshots::v1::*;
pub(super) use services::tasks::v1 as tasks;
pub(super) use services::version::v1 as version;
pub(super) use types::{Descriptor, Mount};
