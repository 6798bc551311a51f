// Package contract certifies the adapter: its suite is in a module of its own, because
// an embedder's `go mod tidy` asks for the dependencies of the adapter's tests.
package contract

import (
	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/contracttests/agent"
	"github.com/moatproject/moat/contracttests/conform"
	"github.com/moatproject/moat/core"
)

// Images are those that [New]'s runtimes have, or can pull.
var Images = conform.Images{
	Image:            memory.BaseImage,
	ConfigImage:      memory.ConfigImage,
	PullImage:        "registry.example/tool:latest",
	MissingImage:     "registry.example/missing:latest",
	UnreachableImage: "unreachable.example/tool:latest",
}

// New returns a runtime for the suite.
func New() core.Runtime {
	return memory.New(memory.Options{
		Programs:    map[string]func(*memory.Process) int{"agent": func(p *memory.Process) int { return agent.Run(p) }},
		Registry:    []memory.Image{{Ref: Images.PullImage}},
		Unreachable: []string{Images.UnreachableImage},
	})
}

const (
	noNetwork = "its containers have no network"
	noFiles   = "its files have neither owners nor links"
	noStats   = "nothing counts what a container uses of this process"
	noKernel  = "it takes a kernel"
)

// Unsupported has the cases that the adapter does not support, and why.
var Unsupported = map[string]string{
	"RT-25":  noNetwork,
	"RT-85":  noNetwork,
	"RT-87":  noNetwork,
	"NM-06":  noNetwork,
	"NM-07":  noNetwork,
	"NM-10":  noNetwork,
	"RT-140": noFiles,
	"RT-141": noFiles,
	"RT-142": noFiles,
	"RT-143": noFiles,
	"RT-144": noFiles,
	"RT-145": noFiles,
	"RT-146": noFiles,
	"RT-147": noFiles,
	"RT-148": noFiles,
	"RT-160": noStats,
	"RT-161": noStats,
	"BM-14":  noFiles,
	"CF-12":  noNetwork,
	"CF-13":  noNetwork,
	"CF-14":  noNetwork,
	"CF-33":  noNetwork,
	"CF-34":  noNetwork,
	"CF-15":  noKernel,
	"CF-16":  noKernel,
	"CF-18":  noKernel,
	"CF-21":  noKernel,
	"CF-22":  noKernel,
	"CF-23":  noKernel,
	"CF-24":  noKernel,
	"CF-30":  noKernel,
	"CF-35":  noNetwork,
	"EG-01":  noNetwork,
	"EG-02":  noNetwork,
	"EG-03":  noNetwork,
	"EG-04":  noNetwork,
	"EG-05":  noNetwork,
	"EG-06":  noNetwork,
	"EG-07":  noNetwork,
	"EG-08":  noNetwork,
}
