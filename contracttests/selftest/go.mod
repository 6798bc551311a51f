module github.com/moatproject/moat/contracttests/selftest

go 1.26.0

require (
	github.com/moatproject/moat/adapters/memory v0.0.0
	github.com/moatproject/moat/contracttests v0.0.0
	github.com/moatproject/moat/core v0.0.0
)

require (
	github.com/spf13/afero v1.15.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/term v0.45.0 // indirect
	golang.org/x/text v0.28.0 // indirect
	mvdan.cc/sh/v3 v3.14.1 // indirect
)

replace (
	github.com/moatproject/moat/adapters/memory => ../../adapters/memory
	github.com/moatproject/moat/contracttests => ..
	github.com/moatproject/moat/core => ../../core
)
