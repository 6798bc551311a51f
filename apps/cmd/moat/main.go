// Command moat runs untrusted code in sandboxed containers.
package main

import (
	"io"
	"log"
	"os"

	"github.com/moatproject/moat/apps/internal/cli"
)

func main() {
	if cli.GuardTerminal() {
		return
	}
	// BuildKit's client has an HTTP/2 server write there of connections that the engine
	// breaks off: what became of the build its caller is told.
	log.SetOutput(io.Discard)
	env := cli.ProcessEnv()
	env.Builder = builder
	os.Exit(cli.Main(env, os.Args[1:]))
}
