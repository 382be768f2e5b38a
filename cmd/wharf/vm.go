package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// addVM gives run and create the flag --vm, short for --isolation vm.
func addVM(root *cobra.Command) error {
	for _, path := range [][]string{{"run"}, {"create"}, {"container", "run"}, {"container", "create"}} {
		cmd, _, err := root.Find(path)
		if err != nil {
			return err
		}
		if cmd.Flags().Lookup("isolation") == nil {
			return fmt.Errorf("%s has no --isolation", cmd.CommandPath())
		}
		vm := cmd.Flags().Bool("vm", false, "Run in a virtual machine: short for --isolation vm")
		before := cmd.PreRunE
		cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
			if *vm {
				if iso := cmd.Flags().Lookup("isolation"); iso.Changed && iso.Value.String() != "vm" {
					return fmt.Errorf("--vm and --isolation %s contradict each other", iso.Value)
				}
				if err := cmd.Flags().Set("isolation", "vm"); err != nil {
					return err
				}
			}
			if before != nil {
				return before(cmd, args)
			}
			return nil
		}
	}
	return nil
}
