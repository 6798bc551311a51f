package cli

import (
	"fmt"
	"runtime"

	"github.com/moatproject/moat/core"
	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	type row struct {
		Version  string `json:"version"`
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show Moat's version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := row{core.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.json {
				return printJSON(a.env.Stdout, []row{v})
			}
			_, err := fmt.Fprintf(a.env.Stdout, "moat %s (%s, %s)\n", v.Version, v.Go, v.Platform)
			return err
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
