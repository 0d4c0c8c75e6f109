package guesttest

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"text/template"
)

// uri is the libvirt that tests use.
const uri = "qemu:///system"

// Prefix begins the names of all domains of this process. .ci/e2e ends those
// that a killed test has left behind.
func Prefix() string { return fmt.Sprintf("cairn-test-%d-", os.Getpid()) }

var counter atomic.Int64

// DomainVM is a domain of libvirt. When its test ends, it is destroyed, and
// undefined with all that libvirt remembers about it.
type DomainVM struct {
	*Guest
	Name   string
	XML    string // as the kit defined it; empty for an attached domain
	Drives []Drive
	tb     testing.TB
}

// Domain defines a domain and does not start it.
func Domain(tb testing.TB, spec Spec) *DomainVM {
	tb.Helper()
	vm, dir := newDomainVM(tb, spec.Name), Dir(tb)
	vm.serialLog = dir + "/serial.log"
	vm.Drives = targets(spec.Drives)
	vm.XML = domainXML(tb, vm, spec, dir)
	vm.Define(vm.XML)
	return vm
}

// Attach returns a domain that somebody else defines, by its whole name, to talk
// to a guest that was made from a restored definition. Its serial log is where
// the definition says that it is.
func Attach(tb testing.TB, name string) *DomainVM {
	tb.Helper()
	vm := newDomainVM(tb, "")
	vm.Name = name
	for _, d := range vm.definition().Serials {
		vm.serialLog = d.Source.Path
	}
	return vm
}

func newDomainVM(tb testing.TB, name string) *DomainVM {
	if name == "" {
		name = fmt.Sprint(counter.Add(1))
	}
	vm := &DomainVM{Name: Prefix() + name, tb: tb}
	vm.Guest = &Guest{tb: tb, channel: vm.shellSocket, ask: vm.askAgent}
	tb.Cleanup(vm.remove)
	return vm
}

// remove leaves nothing of the domain behind, in any state of it.
func (vm *DomainVM) remove() {
	vm.disconnect()
	if _, err := vm.virsh(context.Background(), "domid", vm.Name); err != nil && missing(err) {
		return
	}
	vm.virsh(context.Background(), "destroy", vm.Name) // fails if it does not run
	_, err := vm.virsh(context.Background(), "undefine", "--domain", vm.Name, "--managed-save",
		"--snapshots-metadata", "--checkpoints-metadata", "--nvram", "--tpm")
	if err != nil && !missing(err) {
		vm.tb.Errorf("leftover: %v", err)
	}
}

func missing(err error) bool { return strings.Contains(err.Error(), "failed to get domain") }

func (vm *DomainVM) virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool(vm.tb, "virsh"), append([]string{"--quiet", "--connect", uri}, args...)...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(words.String()))
	}
	return string(out), nil
}

// Virsh runs a command of virsh, which must succeed, and returns what it
// printed. The domain's name is not added by itself.
func (vm *DomainVM) Virsh(args ...string) string {
	vm.tb.Helper()
	out, err := vm.virsh(vm.tb.Context(), args...)
	if err != nil {
		vm.tb.Fatalf("%v (does libvirtd run? .ci/e2e starts it)", err)
	}
	return out
}

// Define defines the domain, or defines it anew, from a definition in XML.
func (vm *DomainVM) Define(definition string) {
	vm.tb.Helper()
	path := Dir(vm.tb) + "/domain.xml"
	if err := os.WriteFile(path, []byte(definition), 0o644); err != nil {
		vm.tb.Fatal(err)
	}
	vm.Virsh("define", "--validate", path)
}

// Start starts the domain. The guest is not ready yet, see WaitReady and
// WaitAgent.
func (vm *DomainVM) Start() {
	vm.tb.Helper()
	vm.disconnect()
	vm.Virsh("start", vm.Name)
}

// Destroy pulls the plug.
func (vm *DomainVM) Destroy() {
	vm.tb.Helper()
	vm.disconnect()
	vm.Virsh("destroy", vm.Name)
}

// State is libvirt's word for what the domain does: running, paused, shut off.
func (vm *DomainVM) State() string {
	vm.tb.Helper()
	return strings.TrimSpace(vm.Virsh("domstate", vm.Name))
}

func (vm *DomainVM) askAgent(ctx context.Context, command string) (string, error) {
	return vm.virsh(ctx, "qemu-agent-command", vm.Name, command)
}

// definition is what the kit reads of a domain's XML.
type definition struct {
	Serials []struct {
		Source struct {
			Path string `xml:"path,attr"`
		} `xml:"source"`
	} `xml:"devices>serial"`
	Channels []struct {
		Source struct {
			Path string `xml:"path,attr"`
		} `xml:"source"`
		Target struct {
			Name string `xml:"name,attr"`
		} `xml:"target"`
	} `xml:"devices>channel"`
}

func (vm *DomainVM) definition() (d definition) {
	vm.tb.Helper()
	if err := xml.Unmarshal([]byte(vm.Virsh("dumpxml", vm.Name)), &d); err != nil {
		vm.tb.Fatalf("definition of %s: %v", vm.Name, err)
	}
	return d
}

// shellSocket returns the path that libvirt chose when the domain started.
func (vm *DomainVM) shellSocket() (string, error) {
	for _, c := range vm.definition().Channels {
		if c.Target.Name == shellPort && c.Source.Path != "" {
			return c.Source.Path, nil
		}
	}
	return "", fmt.Errorf("domain %s has no channel %s, or does not run", vm.Name, shellPort)
}

// The names of the guest's ports.
const (
	shellPort = "org.cairn.test.0"
	agentPort = "org.qemu.guest_agent.0"
)

// The file of the UEFI firmware, and the template of its variables.
const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// domainTemplate makes a definition that names no path of a socket: two domains
// made from it do not clash. All SCSI disks are on one controller: left alone,
// libvirt would give every seven of them another one, of a kind that guests of
// today have no driver for.
var domainTemplate = template.Must(template.New("domain").Funcs(template.FuncMap{"xml": escape}).Parse(`
<domain type='qemu'>
  <name>{{.Name | xml}}</name>
  <memory unit='MiB'>{{.Memory}}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
{{- if .Spec.Firmware}}
    <loader readonly='yes' type='pflash'>{{.Code}}</loader>
    <nvram template='{{.Vars}}'>{{.Dir | xml}}/nvram.fd</nvram>
{{- end}}
    <kernel>{{.Boot.Kernel | xml}}</kernel>
    <initrd>{{.Boot.Initrd | xml}}</initrd>
    <cmdline>{{.Line | xml}}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
{{- range $i, $_ := .Drives}}
    <disk type='file' device='disk'>
      <driver name='qemu' type='{{.Format | xml}}'/>
      <source file='{{.Path | xml}}'/>
      <target dev='{{.Target | xml}}' bus='{{.Bus}}'/>
      <serial>{{.Serial | xml}}</serial>
{{- if eq .Bus "scsi"}}
      <address type='drive' controller='0' bus='0' target='{{$i}}' unit='0'/>
{{- end}}
    </disk>
{{- end}}
    <controller type='usb' model='none'/>
{{- if .SCSI}}
    <controller type='scsi' model='virtio-scsi'/>
{{- end}}
{{- range .NICs}}
    <interface type='user'><model type='virtio'/></interface>
{{- end}}
    <serial type='file'><source path='{{.Log | xml}}'/></serial>
{{- if .Agent}}
    <channel type='unix'><target type='virtio' name='{{.AgentPort}}'/></channel>
{{- end}}
    <channel type='unix'><target type='virtio' name='{{.ShellPort}}'/></channel>
{{- if .Spec.TPM}}
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
{{- end}}
    <memballoon model='none'/>
  </devices>
</domain>
`))

func escape(s string) (string, error) {
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

func domainXML(tb testing.TB, vm *DomainVM, spec Spec, dir string) string {
	tb.Helper()
	if spec.Firmware {
		if _, err := os.Stat(firmwareCode); err != nil {
			tb.Fatalf("no UEFI firmware: %v: install the package ovmf", err)
		}
	}
	scsi := false
	for _, d := range vm.Drives {
		scsi = scsi || d.Bus == VirtioSCSI
	}
	var b strings.Builder
	err := domainTemplate.Execute(&b, map[string]any{
		"Name": vm.Name, "Memory": spec.memory(), "Spec": spec, "Boot": Kit(tb), "Line": spec.commandLine(),
		"Dir": dir, "Log": vm.serialLog, "Drives": vm.Drives, "SCSI": scsi, "NICs": make([]struct{}, spec.NICs),
		"Agent": spec.Agent != AgentMissing, "AgentPort": agentPort, "ShellPort": shellPort,
		"Code": firmwareCode, "Vars": firmwareVars,
	})
	if err != nil {
		tb.Fatalf("definition of %s: %v", vm.Name, err)
	}
	return b.String()
}
