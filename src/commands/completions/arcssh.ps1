# Completion of arcssh for Windows PowerShell 5.1 and PowerShell 7.

Register-ArgumentCompleter -Native -CommandName 'arcssh', 'arcssh.exe' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $words = @($commandAst.CommandElements | Select-Object -Skip 1 |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |
        ForEach-Object {
            if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) { $_.Value } else { $_.Extent.Text }
        })
    $encoding = [Console]::OutputEncoding
    try {
        [Console]::OutputEncoding = [System.Text.Encoding]::UTF8
        $lines = @(& $commandAst.GetCommandName() complete powershell "--current=$wordToComplete" '--' @words 2>$null)
    } catch {
        $lines = @()
    } finally {
        [Console]::OutputEncoding = $encoding
    }
    foreach ($line in $lines) {
        $text, $name, $description = $line -split "`t", 3
        [System.Management.Automation.CompletionResult]::new($text, $name, 'ParameterValue', $description)
    }
}
