package conform

import "github.com/moatproject/moat/contracttests/agent"

// actAsAgent runs the agent, and exits.
func actAsAgent() { agent.Main() }
