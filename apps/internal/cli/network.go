package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moatproject/moat/apps/internal/wiring"
	"github.com/moatproject/moat/core"
	"github.com/moatproject/moat/core/optional"
	"github.com/spf13/cobra"
)

func (a *app) networkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Manage networks, on which containers find each other by name",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.networkListCommand(), a.networkCreateCommand(), a.networkRemoveCommand())
	return cmd
}

// withNetworks opens the runtime's network manager for f.
func (a *app) withNetworks(cmd *cobra.Command, f func(context.Context, core.NetworkManager) error) error {
	return with(cmd, a, func(ctx context.Context, engine *wiring.Engine) error {
		networks, err := core.NetworkManagerOf(engine)
		if err != nil {
			return err
		}
		return f(ctx, networks)
	})
}

func (a *app) networkListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List networks that Moat manages",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withNetworks(cmd, func(ctx context.Context, networks core.NetworkManager) error {
				infos, err := networks.ListNetworks(ctx)
				if err != nil {
					return err
				}
				return a.printNetworks(infos)
			})
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) printNetworks(infos []core.NetworkInfo) error {
	if a.json {
		return printJSON(a.env.Stdout, infos)
	}
	rows := make([][]string, len(infos))
	for i, info := range infos {
		rows[i] = []string{shortID(info.ID), info.Name, info.Subnet, fmt.Sprint(info.Internal), info.Labels[core.LabelRunID]}
	}
	return printTable(a.env.Stdout, []string{"NETWORK ID", "NAME", "SUBNET", "INTERNAL", "RUN"}, rows)
}

func (a *app) networkCreateCommand() *cobra.Command {
	var config optional.NetworkConfig
	var labels []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a network and print its ID",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			config.Name = args[0]
			if config.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			return a.withNetworks(cmd, func(ctx context.Context, networks core.NetworkManager) error {
				creator, ok := networks.(optional.NetworkCreator)
				if !ok {
					return &core.Error{Op: "create network", Object: config.Name, Class: core.ErrUnsupported}
				}
				id, err := creator.CreateNetworkFrom(ctx, config)
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(a.env.Stdout, []core.NetworkInfo{{ID: id, Name: config.Name, Subnet: config.Subnet, Internal: config.Internal, Labels: config.Labels}})
				}
				_, err = fmt.Fprintln(a.env.Stdout, id)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&config.Internal, "internal", false, "block all traffic out of the network, also to the engine's host")
	flags.BoolVar(&config.Isolated, "isolated", false, "block traffic between the network's containers")
	flags.StringVar(&config.Subnet, "subnet", "", "IPv4 `subnet`, such as 192.0.2.0/26 (default: a small one that is free)")
	flags.StringArrayVarP(&labels, "label", "l", nil, "label `KEY=value`")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) networkRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NETWORK...",
		Short: "Remove networks",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withNetworks(cmd, func(ctx context.Context, networks core.NetworkManager) error {
				all, err := networks.ListNetworks(ctx)
				if err != nil {
					return err
				}
				remove := networks.RemoveNetwork
				if force {
					remove = networks.ForceRemoveNetwork
				}
				var removed []core.NetworkInfo
				var errs []error
				inParallel(args, func(arg string) (core.NetworkInfo, error) {
					info, err := matchNetwork(all, arg)
					if err == nil {
						err = remove(ctx, info.ID)
					}
					return info, err
				}, func(_ string, info core.NetworkInfo, err error) {
					if errs = append(errs, err); err == nil {
						removed = append(removed, info)
					}
				})
				return errors.Join(a.printRemovedNetworks(removed), errors.Join(errs...))
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "disconnect the network's containers first")
	a.jsonFlag(cmd)
	return cmd
}

// matchNetwork finds a managed network by name, ID or unique prefix of an ID.
func matchNetwork(all []core.NetworkInfo, arg string) (core.NetworkInfo, error) {
	fits := func(info core.NetworkInfo) bool { return info.Name == arg || info.ID == arg }
	if !slices.ContainsFunc(all, fits) {
		fits = func(info core.NetworkInfo) bool { return arg != "" && strings.HasPrefix(info.ID, arg) }
	}
	var found []core.NetworkInfo
	for _, info := range all {
		if fits(info) {
			found = append(found, info)
		}
	}
	failure := &core.Error{Op: "find network", Object: arg}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		failure.Class, failure.Remedy = core.ErrNotFound, "List the networks that Moat manages with `moat network ls`"
	default:
		failure.Class, failure.Err = core.ErrInvalidConfig, errors.New("more than one network begins with it; give more of the ID")
	}
	return core.NetworkInfo{}, failure
}

func (a *app) printRemovedNetworks(removed []core.NetworkInfo) error {
	if a.json {
		return printJSON(a.env.Stdout, removed)
	}
	for _, info := range removed {
		if _, err := fmt.Fprintln(a.env.Stdout, info.Name); err != nil {
			return err
		}
	}
	return nil
}
