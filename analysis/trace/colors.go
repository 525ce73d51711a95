package trace

// Color is the fill of a layer in every picture, as "#rrggbb". Layers of one kind have one hue -
// blue for the stack, orange for netfilter, green for BPF, violet for devices - in light tints on
// which black text can be read; kinds differ in lightness, too, for readers who do not see all
// colors.
func (l Layer) Color() string {
	if c, ok := map[Layer]string{
		LayerClient: "#dcdcdc", LayerServer: "#c6c6c6", LayerPrograms: "#ececec",
		LayerSyscall: "#fbeeb5", LayerCopy: "#f3dc7c", LayerSocket: "#f8e69a",
		LayerTCP: "#a9cfee", LayerIP: "#7fb4df",
		LayerNetfilter: "#fbcf9f", LayerConntrack: "#f3a95c", LayerIptables: "#e07b28", LayerNftables: "#e8954a", LayerIPSet: "#f6bc80",
		LayerBPF: "#5dbb92", LayerTC: "#a5dcc3", LayerXDP: "#84ccab",
		LayerBridge: "#d3a3d6", LayerVeth: "#e3c6e5", LayerOverlay: "#bd86c2", LayerOVS: "#c893cb", LayerQdisc: "#eeddef",
		LayerSoftirq: "#c3c4ea", LayerGRO: "#dadbf4", LayerSKB: "#ddd0bb",
		LayerWakeup: "#b9a98f", LayerTimers: "#d0c4b0", LayerInterrupts: "#c5b79f", LayerMemory: "#e9e0d2", LayerHousekeeper: "#efe9df",
		LayerIdle: "#f4f4f4",
	}[l]; ok {
		return c
	}
	return "#ffffff"
}
