module github.com/moatproject/moat/tools/rules

go 1.26.0
