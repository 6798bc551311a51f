module github.com/moatproject/moat/core

go 1.26.0
