module github.com/moatproject/moat/adapters/gvisor

go 1.26.0
