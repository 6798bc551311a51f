package memory_test

import (
	"context"
	"fmt"

	"github.com/moatproject/moat/adapters/memory"
	"github.com/moatproject/moat/core"
)

// check stands for an embedder's code: it takes any runtime.
func check(ctx context.Context, rt core.Runtime) (code int64, output []byte, err error) {
	id, err := rt.CreateContainer(ctx, core.Config{Image: "example/linter", Cmd: []string{"lint", "--strict"}})
	if err != nil {
		return 0, nil, err
	}
	defer rt.RemoveContainer(context.WithoutCancel(ctx), id)
	if err := rt.StartContainer(ctx, id); err != nil {
		return 0, nil, err
	}
	if code, err = rt.WaitContainer(ctx, id); err != nil {
		return 0, nil, err
	}
	output, err = rt.ContainerLogsAll(ctx, id)
	return code, output, err
}

// An embedder's test gives the program that its code runs as a function.
func Example() {
	rt := memory.New(memory.Options{
		Images: []memory.Image{{Ref: "example/linter"}},
		Programs: map[string]func(*memory.Process) int{"lint": func(p *memory.Process) int {
			fmt.Fprintf(p.Stdout(), "two problems (%s)\n", p.Args()[1])
			return 2
		}},
	})
	defer rt.Close()

	code, output, err := check(context.Background(), rt)
	fmt.Printf("%d %s%v\n", code, output, err)
	// Output:
	// 2 two problems (--strict)
	// <nil>
}
