package dockerapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// legacyCreate holds what older versions sent and the API types no longer
// have.
type legacyCreate struct {
	MacAddress network.HardwareAddr
	HostConfig struct {
		Capabilities    []string
		KernelMemory    int64
		KernelMemoryTCP int64
	}
}

func (s *server) createContainer(c *call) error {
	raw, err := c.rawBody()
	if err != nil {
		return err
	}
	var req container.CreateRequest
	if err := decodeJSON(raw, &req); err != nil {
		return err
	}
	var old legacyCreate
	_ = json.Unmarshal(raw, &old) // a wrong type there is nothing newer clients have
	platform, err := c.platform("platform", 41)
	if err != nil {
		return err
	}
	warnings, err := adaptCreate(c.v, &req, &old)
	if err != nil {
		return err
	}
	answer, err := s.Containers.Create(c.ctx(), model.CreateRequest{
		Name: c.get("name"), Config: req.Config, HostConfig: req.HostConfig,
		Networking: req.NetworkingConfig, Platform: platform, APIVersion: c.v.String(),
	})
	if err != nil {
		return err
	}
	answer.Warnings = append(list(answer.Warnings), warnings...)
	return c.json(http.StatusCreated, answer)
}

// adaptCreate does what only the door can: it fills in what is null, and
// turns fields that the API types no longer have into those that they have.
// What other fields meant in older versions is plan's to know, by
// CreateRequest.APIVersion.
func adaptCreate(v version, req *container.CreateRequest, old *legacyCreate) (warnings []string, err error) {
	if req.Config == nil {
		return nil, invalid("config cannot be empty in order to create a container")
	}
	fillCreate(req)
	if v == 40 && len(old.HostConfig.Capabilities) > 0 {
		return nil, invalid("HostConfig.Capabilities is not supported; use CapAdd and CapDrop")
	}
	if v < 52 && (old.HostConfig.KernelMemory > 0 || old.HostConfig.KernelMemoryTCP > 0) {
		warnings = append(warnings, "KernelMemory and KernelMemoryTCP have no effect: the kernel no longer limits this memory apart")
	}
	w, err := adaptMAC(v, req, old.MacAddress)
	if w != "" {
		warnings = append(warnings, w)
	}
	return warnings, err
}

// fillCreate replaces what is null by what it means.
func fillCreate(req *container.CreateRequest) {
	if req.Config.Volumes == nil {
		req.Config.Volumes = map[string]struct{}{}
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.HostConfig.PortBindings == nil {
		req.HostConfig.PortBindings = network.PortMap{}
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	if req.NetworkingConfig.EndpointsConfig == nil {
		req.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	eps := req.NetworkingConfig.EndpointsConfig
	for name, ep := range eps {
		if ep == nil {
			eps[name] = &network.EndpointSettings{}
		}
	}
	if m := req.HostConfig.NetworkMode; m == "" || m.IsDefault() {
		req.HostConfig.NetworkMode = network.NetworkBridge
		if ep, ok := eps[network.NetworkDefault]; ok {
			delete(eps, network.NetworkDefault)
			eps[network.NetworkBridge] = ep
		}
	}
}

// adaptMAC moves a container-wide MAC address to the main network.
func adaptMAC(v version, req *container.CreateRequest, mac network.HardwareAddr) (string, error) {
	mode, eps := req.HostConfig.NetworkMode, req.NetworkingConfig.EndpointsConfig
	if len(mac) == 0 {
		if v < 44 {
			for _, ep := range eps {
				ep.MacAddress = nil
			}
		}
		return "", nil
	}
	if v >= 52 {
		return "", invalid("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
	}
	if !mode.IsBridge() && !mode.IsUserDefined() {
		if v < 44 {
			return "", invalid("conflicting options: mac-address and the network mode")
		}
		return fmt.Sprintf("MacAddress %s has no effect with network mode %q.", mac, mode), nil
	}
	ep, err := mainEndpoint(v, mode, eps)
	if err != nil {
		return "", err
	}
	if v >= 44 && len(ep.MacAddress) != 0 && !slices.Equal(ep.MacAddress, mac) {
		return "", invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	ep.MacAddress = mac
	if v < 44 {
		return "", nil
	}
	return "The container-wide MacAddress field is deprecated; give it in EndpointsConfig instead.", nil
}

// mainEndpoint finds or makes the endpoint that NetworkMode names.
func mainEndpoint(v version, mode container.NetworkMode, eps map[string]*network.EndpointSettings) (*network.EndpointSettings, error) {
	name := mode.NetworkName()
	if len(eps) == 0 {
		eps[name] = &network.EndpointSettings{}
	} else if v < 44 {
		for _, ep := range eps {
			return ep, nil // there is only one
		}
	}
	if ep := eps[name]; ep != nil {
		return ep, nil
	}
	return nil, invalid("HostConfig.NetworkMode %q must match the identity of a network in NetworkSettings.Networks", mode)
}
