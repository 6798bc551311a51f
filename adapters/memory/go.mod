module github.com/moatproject/moat/adapters/memory

go 1.26.0

require (
	github.com/moatproject/moat/contracttests v0.0.0
	github.com/moatproject/moat/core v0.0.0
	github.com/spf13/afero v1.15.0
	mvdan.cc/sh/v3 v3.14.1
)

require (
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/term v0.45.0 // indirect
	golang.org/x/text v0.28.0 // indirect
)

replace (
	github.com/moatproject/moat/contracttests => ../../contracttests
	github.com/moatproject/moat/core => ../../core
)
