complete -c knock-cli -s c -l config -d 'The configuration with the rules; default: config.json in the current directory, else beside this program' -r -F
complete -c knock-cli -s r -l rule -d 'Knock the sequence of this rule of the configuration' -r
complete -c knock-cli -s h -l host -d 'The host to knock at: a name or an address' -r
complete -c knock-cli -s s -l sequence -d 'Knock these ports, with commas between them, in place of a rule' -r
complete -c knock-cli -s d -l delay -d 'Milliseconds between two knocks. Knocks are flows of their own, which a network may carry along different ways; without a pause a later one can overtake an earlier one' -r
complete -c knock-cli -s 4 -l ipv4 -d 'Knock at the host\'s IPv4 address'
complete -c knock-cli -s 6 -l ipv6 -d 'Knock at the host\'s IPv6 address'
complete -c knock-cli -s u -l udp -d 'Knock by UDP at every port'
complete -c knock-cli -s v -l verbose -d 'Say each knock and the address it goes to'
complete -c knock-cli -s q -l quiet -d 'Say nothing but errors'
complete -c knock-cli -l help -d 'Print this help'
complete -c knock-cli -s V -l version -d 'Print version'
