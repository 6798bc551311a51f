package contract

import (
	"testing"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/contracttests/agent"
	"github.com/moatproject/moat/core"
)

const (
	pulledImage      = "registry.example/tool:latest"
	unreachableImage = "unreachable.example/tool:latest"
)

func TestContract(t *testing.T) {
	contracttests.Run(t, contracttests.Harness{
		Name: "memory",
		New: func(testing.TB) core.Runtime {
			return memory.New(memory.Options{
				Programs:    map[string]func(*memory.Process) int{"agent": func(p *memory.Process) int { return agent.Run(p) }},
				Registry:    []memory.Image{{Ref: pulledImage}},
				Unreachable: []string{unreachableImage},
			})
		},
		Image:            memory.BaseImage,
		ConfigImage:      memory.ConfigImage,
		PullImage:        pulledImage,
		MissingImage:     "registry.example/missing:latest",
		UnreachableImage: unreachableImage,
	}, contracttests.Options{
		Unsupported: unsupported,
		Golden:      "testdata/contract.golden",
	})
}

const (
	noNetwork = "its containers have no network"
	noFiles   = "its files have neither owners nor links"
	noStats   = "nothing counts what a container uses of this process"
	noKernel  = "it takes a kernel"
)

var unsupported = map[string]string{
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
}
