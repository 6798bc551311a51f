module github.com/moatproject/moat/apps

go 1.26.0

require (
	github.com/docker/go-units v0.5.0 // indirect
	github.com/gofrs/flock v0.13.2 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mattn/go-colorable v0.1.14 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	github.com/moatproject/moat/adapters/container v0.0.0
	github.com/moatproject/moat/core v0.0.0
	github.com/rs/zerolog v1.35.1 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	go.uber.org/dig v1.19.0 // indirect
	go.uber.org/fx v1.24.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
	go.uber.org/zap v1.26.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
)

replace github.com/moatproject/moat/core => ../core

replace github.com/moatproject/moat/contracttests => ../contracttests

replace github.com/moatproject/moat/adapters/container => ../adapters/container

replace github.com/moatproject/moat/adapters/docker => ../adapters/docker

replace github.com/moatproject/moat/adapters/gvisor => ../adapters/gvisor

replace github.com/moatproject/moat/adapters/memory => ../adapters/memory
