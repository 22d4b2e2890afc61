// Measures a proxy snapshotter over its socket, as containerd would use it:
//
//	pairs SOCKET CALLERS SECONDS LIVE
//
// First a committed layer and LIVE active snapshots over it are made, then CALLERS callers each
// prepare a snapshot over that layer and remove it, again and again. Prints the pairs per second
// and the median and 99th percentile of Prepare in milliseconds.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const layer = "bench-layer"

func number(argument string) int {
	value, err := strconv.Atoi(argument)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func prepare(ctx context.Context, snapshotter snapshots.Snapshotter, key, parent string) time.Duration {
	began := time.Now()
	if _, err := snapshotter.Prepare(ctx, key, parent); err != nil {
		log.Fatal(err)
	}
	return time.Since(began)
}

func remove(ctx context.Context, snapshotter snapshots.Snapshotter, key string) {
	if err := snapshotter.Remove(ctx, key); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: pairs SOCKET CALLERS SECONDS LIVE")
	}
	callers, seconds, live := number(os.Args[2]), number(os.Args[3]), number(os.Args[4])
	connection, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "bench")
	ctx := context.Background()
	prepare(ctx, snapshotter, "bench-extract", "")
	if err := snapshotter.Commit(ctx, layer, "bench-extract"); err != nil {
		log.Fatal(err)
	}
	for n := range live {
		prepare(ctx, snapshotter, fmt.Sprintf("bench-live-%d", n), layer)
	}

	took := make([][]time.Duration, callers)
	deadline := time.Now().Add(time.Duration(seconds) * time.Second)
	var running sync.WaitGroup
	for caller := range callers {
		running.Go(func() {
			for n := 0; time.Now().Before(deadline); n++ {
				key := fmt.Sprintf("bench-%d-%d", caller, n)
				took[caller] = append(took[caller], prepare(ctx, snapshotter, key, layer))
				remove(ctx, snapshotter, key)
			}
		})
	}
	running.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[int(float64(len(all)-1)*share)].Microseconds()) / 1000
	}
	fmt.Printf("%d callers, %d live: %.0f pairs/s, prepare median %.2f ms, p99 %.2f ms\n",
		callers, live, float64(len(all))/float64(seconds), at(0.5), at(0.99))

	for n := range live {
		remove(ctx, snapshotter, fmt.Sprintf("bench-live-%d", n))
	}
	remove(ctx, snapshotter, layer)
}
