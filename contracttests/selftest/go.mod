module github.com/moatproject/moat/contracttests/selftest

go 1.26.0

require (
	github.com/moatproject/moat/adapters/memory v0.0.0
	github.com/moatproject/moat/contracttests v0.0.0
	github.com/moatproject/moat/core v0.0.0
)

replace (
	github.com/moatproject/moat/adapters/memory => ../../adapters/memory
	github.com/moatproject/moat/contracttests => ..
	github.com/moatproject/moat/core => ../../core
)
