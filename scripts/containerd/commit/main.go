// Makes an image of a container, as `nerdctl commit` does:
//
//	commit SOCKET NAMESPACE CONTAINER IMAGE
//
// The layer is made by containerd's diff service, unpacked over the container's image again, and
// named as one more layer of it. Prints the layer's digest and its length in bytes.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const uncompressed = "containerd.io/uncompressed"

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func write(ctx context.Context, store content.Store, mediaType string, value any, labels map[string]string) v1.Descriptor {
	data := must(json.Marshal(value))
	descriptor := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(ctx, store, descriptor.Digest.String(), bytes.NewReader(data), descriptor, content.WithLabels(labels))
	must(0, err)
	return descriptor
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: commit SOCKET NAMESPACE CONTAINER IMAGE")
	}
	containerd := must(client.New(os.Args[1]))
	ctx := namespaces.WithNamespace(context.Background(), os.Args[2])
	ctx, release, err := containerd.WithLease(ctx)
	must(0, err)
	defer release(ctx)
	container := must(containerd.LoadContainer(ctx, os.Args[3]))
	info := must(container.Info(ctx))
	base := must(container.Image(ctx))
	store := containerd.ContentStore()

	snapshotter := containerd.SnapshotService(info.Snapshotter)
	layer := must(rootfs.CreateDiff(ctx, info.SnapshotKey, snapshotter, containerd.DiffService()))
	diffID := digest.Digest(must(store.Info(ctx, layer.Digest)).Labels[uncompressed])

	parent := identity.ChainID(must(base.RootFS(ctx)))
	chain := identity.ChainID([]digest.Digest{parent, diffID})
	extract := "commit-" + os.Args[3]
	mounts := must(snapshotter.Prepare(ctx, extract, parent.String()))
	must(containerd.DiffService().Apply(ctx, layer, mounts))
	must(0, snapshotter.Commit(ctx, chain.String(), extract))

	var config map[string]any
	configBytes := must(content.ReadBlob(ctx, store, must(base.Config(ctx))))
	must(0, json.Unmarshal(configBytes, &config))
	diffIDs := config["rootfs"].(map[string]any)
	diffIDs["diff_ids"] = append(diffIDs["diff_ids"].([]any), diffID.String())
	snapshotLabel := "containerd.io/gc.ref.snapshot." + info.Snapshotter
	configDescriptor := write(ctx, store, v1.MediaTypeImageConfig, config, map[string]string{snapshotLabel: chain.String()})

	manifest := must(images.Manifest(ctx, store, base.Target(), base.Platform()))
	manifest.Versioned, manifest.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageManifest
	manifest.Config = configDescriptor
	manifest.Layers = append(manifest.Layers, layer)
	labels := map[string]string{"containerd.io/gc.ref.content.config": configDescriptor.Digest.String()}
	for n, layer := range manifest.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", n)] = layer.Digest.String()
	}
	target := write(ctx, store, v1.MediaTypeImageManifest, manifest, labels)
	must(containerd.ImageService().Create(ctx, images.Image{Name: os.Args[4], Target: target}))
	fmt.Println(layer.Digest, layer.Size)
}
