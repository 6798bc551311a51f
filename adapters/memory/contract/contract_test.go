package contract

import (
	"testing"

	"github.com/moatproject/moat/contracttests"
	"github.com/moatproject/moat/core"
)

func TestContract(t *testing.T) {
	contracttests.Run(t, contracttests.Harness{
		Name: "memory",
		New:  func(testing.TB) core.Runtime { return New() },

		Image:            Images.Image,
		ConfigImage:      Images.ConfigImage,
		PullImage:        Images.PullImage,
		MissingImage:     Images.MissingImage,
		UnreachableImage: Images.UnreachableImage,
	}, contracttests.Options{
		Unsupported: Unsupported,
		Golden:      "testdata/contract.golden",
	})
}
