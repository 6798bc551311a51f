module github.com/moatproject/moat/adapters/egress

go 1.26.0

require github.com/moatproject/moat/core v0.0.0

replace github.com/moatproject/moat/core => ../../core
