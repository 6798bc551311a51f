// Command moat-proxy is the egress proxy of one run, for a container beside the run's.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/moatproject/moat/apps/internal/egressproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := egressproxy.Main(ctx, os.Args[1:], egressproxy.Process())
	stop()
	os.Exit(status)
}
