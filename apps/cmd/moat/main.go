// Command moat runs work that nobody has to trust in sandboxed containers.
package main

import (
	"os"

	"github.com/moatproject/moat/apps/internal/cli"
)

func main() {
	os.Exit(cli.Main(cli.ProcessEnv(), os.Args[1:]))
}
