// Command cairnd is the server: it keeps vaults below a data directory and
// serves Cairn's API on a unix socket, or on a loopback port.
//
//	cairnd --data DIR [--listen HOST:PORT] [--socket PATH] [--region R[,R…]]
//	       [--local-agent [--libvirt URI] [--qemu DIR] [--images DIR]]
//
// When it takes calls it prints a line per listener to standard output:
//
//	cairnd: serving on unix:/var/lib/cairn/cairnd.sock
//	cairnd: serving on 127.0.0.1:7401
//
// SIGTERM and SIGINT stop it gently: nothing new begins, running uploads get
// --grace to finish, and are then abandoned in order. A second signal cuts the
// wait short. Exit status: 0 stopped, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"cairn/client/agent"
	"cairn/client/source/open"
	"cairn/server/daemon"
)

func main() {
	open.Guard()
	os.Exit(daemon.Main(os.Args[1:], agent.Version, localAgent))
}

// localAgent is the agent of --local-agent.
func localAgent(o daemon.AgentOptions) (daemon.RunAgent, error) {
	src, err := open.Sources(open.Options{
		Images: o.Images, Libvirt: o.Libvirt, QEMU: o.QEMU, State: o.State, FreezeLimit: o.FreezeLimit, Log: o.Log})
	if err != nil {
		return nil, err
	}
	host := o.Host
	if host == "" {
		if host, err = agent.HostID(); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, address string) (err error) {
		defer func() { err = errors.Join(err, src.Close()) }()
		return agent.Run(ctx, agent.Options{
			Server: address, Host: host, Region: o.Region,
			Source: src.Source, SourceKind: src.Kinds, MaxConcurrent: 2, Log: o.Log,
			Ready: func() { fmt.Printf("cairnd: host %s is connected\n", host) },
		})
	}, nil
}
