module github.com/moatproject/moat/adapters/container

go 1.26.0

require (
	github.com/moatproject/moat/adapters/docker v0.0.0
	github.com/moatproject/moat/adapters/gvisor v0.0.0
	github.com/moatproject/moat/adapters/memory v0.0.0
	github.com/moatproject/moat/core v0.0.0
)

replace (
	github.com/moatproject/moat/adapters/docker => ../docker
	github.com/moatproject/moat/adapters/gvisor => ../gvisor
	github.com/moatproject/moat/adapters/memory => ../memory
	github.com/moatproject/moat/contracttests => ../../contracttests
	github.com/moatproject/moat/core => ../../core
)
