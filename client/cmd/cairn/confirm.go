package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// errNobodyToAsk: something cannot be undone, and there is no person to ask.
var errNobodyToAsk = usageError{errors.New("this cannot be undone, and standard input is no terminal to ask on: add --yes")}

// onTerminal says whether a person can be asked.
func onTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// askable refuses at once what nobody could be asked about later.
func askable(yes bool) error {
	if yes || onTerminal() {
		return nil
	}
	return errNobodyToAsk
}

// confirm asks before something is lost, unless yes was said already. It
// answers nil only for a clear yes.
func confirm(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	if err := askable(yes); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, format+" [y/N] ", args...)
	answer := make(chan string, 1)
	go func() { // cannot be interrupted; the program ends instead
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // an end of input is no yes
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
		return errors.New("nothing was done")
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr)
		return context.Cause(ctx)
	}
}
