// Runs containerd's published suite of tests for snapshotters against a proxy snapshotter.
//
// NACRE_SNAPSHOTTER_SOCKET is its socket. Needs root, for the suite mounts what it is told to.
package suite

import (
	"context"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestSuite(t *testing.T) {
	socket := os.Getenv("NACRE_SNAPSHOTTER_SOCKET")
	if socket == "" {
		t.Skip("NACRE_SNAPSHOTTER_SOCKET is not set")
	}
	// The name makes the suite leave out renames of lower directories, as for containerd's own.
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "nacre")
		return snapshotter, connection.Close, nil
	})
}
