package main

import (
	"github.com/spf13/cobra"
)

func (a *app) cpCmd() *cobra.Command { return &cobra.Command{Use: "cp"} }
