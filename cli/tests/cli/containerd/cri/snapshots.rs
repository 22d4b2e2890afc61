//! What the snapshotter itself says it has: containerd shows only what it knows of that.

use std::path::Path;

use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::connect;

#[derive(Clone, PartialEq, Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    infos: Vec<Info>,
}

/// Returns the names of all snapshots behind a snapshotter's socket.
pub(in super::super) fn snapshot_names(socket: &Path) -> Vec<String> {
    let (runtime, channel) = connect(socket);
    let mut client = Grpc::new(channel);
    let path = PathAndQuery::from_static("/containerd.services.snapshots.v1.Snapshots/List");
    runtime.block_on(async {
        client.ready().await.unwrap();
        let codec = ProstCodec::<ListRequest, ListResponse>::default();
        let request = Request::new(ListRequest {});
        let answer = client.server_streaming(request, path, codec).await;
        let mut pages = answer.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            names.extend(page.infos.into_iter().map(|info| info.name));
        }
        names
    })
}
