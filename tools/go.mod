module github.com/moatproject/moat/tools

go 1.26.0
