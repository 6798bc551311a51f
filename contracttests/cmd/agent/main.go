//go:build linux

// Command agent is the program of the suite's containers: package agent has its verbs.
package main

import "github.com/moatproject/moat/contracttests/agent"

func main() { agent.Main() }
